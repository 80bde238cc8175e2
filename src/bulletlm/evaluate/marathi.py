"""The Marathi texts of the report: English text -> translation, with the same names in braces."""

MARATHI: dict[str, str] = {
    # verdicts
    "Safe to ship": "वापरायला सुरक्षित",
    "Ship with this limit: {limit}": "या मर्यादेसह वापरा: {limit}",
    "Do not ship: {action}": "वापरू नका: {action}",
    "Is the {n}-bit file as good as FP32?": "{n}-बिट फाइल FP32 इतकी चांगली आहे का?",
    "Is the model useful?": "मॉडेल उपयोगी आहे का?",
    "The {n}-bit file": "{n}-बिट फाइल",
    "The model": "मॉडेल",
    "Why": "कारण",
    "What to do, the cheapest first": "काय करावे (सर्वांत स्वस्त उपाय आधी)",
    "The file model.bullet predicts text almost exactly as the trained model (FP32), of which it is a small copy.": (
        "model.bullet ही प्रशिक्षित मॉडेलची (FP32) लहान प्रत आहे; ती जवळजवळ तसेच अंदाज करते."
    ),
    "The file model.bullet is a small copy of the trained model (FP32), and it may be a little worse.": (
        "model.bullet ही प्रशिक्षित मॉडेलची (FP32) लहान प्रत आहे; ती कदाचित थोडी कमी चांगली आहे."
    ),
    "The file model.bullet is a worse copy of the trained model (FP32). The trained model itself is not affected.": (
        "model.bullet ही प्रशिक्षित मॉडेलची (FP32) चांगली प्रत नाही. मूळ प्रशिक्षित मॉडेल जसेच्या तसे आहे."
    ),
    "The model passed all checks. They do not find false claims, so read some answers before you give it to others.": (
        "मॉडेलने सर्व तपासण्या पार केल्या. त्या खोटी विधाने शोधत नाहीत; म्हणून इतरांना देण्याआधी काही उत्तरे वाचा."
    ),
    "A check is not clearly passed. Read some answers on this page before you give the model to others.": (
        "एक तपासणी स्पष्टपणे पार झालेली नाही. मॉडेल इतरांना देण्याआधी या पानावरची काही उत्तरे वाचा."
    ),
    "The model knows the text with which it was tested, so this page does not show how it does with new questions.": (
        "ज्या मजकुरावर चाचणी घेतली तो मॉडेलला आधीच माहीत आहे; त्यामुळे नव्या प्रश्नांना ते कशी उत्तरे देईल हे या पानावरून कळत नाही."
    ),
    "The model often answers in another language than that of the question.": "मॉडेल अनेकदा प्रश्नाच्या भाषेत नाही, तर दुसऱ्या भाषेत उत्तर देते.",
    "The model often repeats itself instead of answering.": "मॉडेल उत्तर देण्याऐवजी अनेकदा तेच तेच पुन्हा लिहिते.",
    "The model writes many words that do not exist.": "मॉडेल अस्तित्वात नसलेले अनेक शब्द लिहिते.",
    "The model writes text, but its answers often have nothing to do with the question.": (
        "मॉडेल मजकूर लिहिते, पण त्याच्या उत्तरांचा प्रश्नाशी अनेकदा काही संबंध नसतो."
    ),
    "The model has not learned enough.": "मॉडेल अजून पुरेसे शिकलेले नाही.",
    "The figure “{figure}” is {share}: in models with a figure this low, readers found at most about one answer in twenty good.": (
        "“{figure}” हा आकडा {share} आहे: इतका कमी आकडा असलेल्या मॉडेलच्या वीस उत्तरांपैकी जास्तीत जास्त एक उत्तर वाचकांना चांगले वाटले."
    ),
    "You can try it out and train it further, but do not rely on its answers.": (
        "तुम्ही ते वापरून पाहू शकता आणि त्याला पुढे प्रशिक्षण देऊ शकता, पण त्याच्या उत्तरांवर विसंबून राहू नका."
    ),
    "The commands are for the person who trained the model: RUN stands for the run folder, TEXT for your own text.": (
        "या आज्ञा मॉडेलला प्रशिक्षण देणाऱ्या व्यक्तीसाठी आहेत: RUN म्हणजे रनचा फोल्डर, TEXT म्हणजे तुमचा मजकूर."
    ),
    "(a minute)": "(एक मिनिट)",
    "(some minutes)": "(काही मिनिटे)",
    "(another training)": "(पुन्हा प्रशिक्षण)",
    "(more text, and another training)": "(अधिक मजकूर आणि पुन्हा प्रशिक्षण)",
    "at least {limit}": "किमान {limit}",
    "at most {limit}": "जास्तीत जास्त {limit}",
    "within the limit": "मर्यादेत",
    "beyond the limit, perhaps by chance": "मर्यादेबाहेर, कदाचित योगायोगाने",
    "beyond the limit": "मर्यादेबाहेर",
    "not measured": "मोजलेले नाही",
    "95 % interval {low} to {high}": "95 % अंतराल {low} ते {high}",
    "{points} points": "{points} टक्के-अंक",
    "{number} nats": "{number} नॅट",
    "{number} bits per byte": "{number} बिट प्रति बाइट",
    "layer {number}": "थर {number}",
    # figures of the quantization
    "Rise of the perplexity": "परप्लेक्सिटीतील वाढ",
    "the perplexity changes by {change}": "परप्लेक्सिटी {change} ने बदलते",
    "the perplexity changes by {change}, which is inside the noise": ("परप्लेक्सिटी {change} ने बदलते; हा फरक योगायोगाच्या मर्यादेत आहे"),
    "the perplexity changes by {change} (95 % interval {low} to {high})": ("परप्लेक्सिटी {change} ने बदलते (95 % अंतराल {low} ते {high})"),
    "KL divergence from FP32": "FP32 पासून KL अंतर",
    "the predictions differ from FP32 by a KL divergence of {kl}": ("अंदाज FP32 पेक्षा {kl} इतक्या KL अंतराने वेगळे आहेत"),
    "Rise of the perplexity in the worst language": "सर्वाधिक नुकसान झालेल्या भाषेतील परप्लेक्सिटीची वाढ",
    "in {language} the perplexity changes by {change}": "{language} भाषेत परप्लेक्सिटी {change} ने बदलते",
    "Largest error of a matrix": "एका मॅट्रिक्सची सर्वांत मोठी चूक",
    "the weights of {tensor} differ from FP32 by {error}": "{tensor} चे भार FP32 पेक्षा {error} ने वेगळे आहेत",
    "Rows of weights that are far from FP32": "FP32 पासून दूर असलेल्या भारांच्या ओळी",
    "all {rows} rows of weights are close to FP32": "भारांच्या सर्व {rows} ओळी FP32 च्या जवळ आहेत",
    "{far} of {rows} rows of weights are not those of FP32 ({names})": ("{rows} पैकी {far} ओळींचे भार FP32 चे नाहीत ({names})"),
    "More answers with a fault": "दोष असलेल्या उत्तरांतील वाढ",
    "answers with a fault: FP32 {a}, {n}-bit {b}": "दोष असलेली उत्तरे: FP32 {a}, {n}-बिट {b}",
    "More wrong answers to facts": "तथ्यांच्या चुकीच्या उत्तरांतील वाढ",
    "wrong answers to {asked} facts of the training text: FP32 {a}, {n}-bit {b}": (
        "प्रशिक्षण मजकुरातील {asked} तथ्यांची चुकीची उत्तरे: FP32 {a}, {n}-बिट {b}"
    ),
    # causes and remedies of the quantization
    "the weights of {where} ({names}) are {factor} times those of FP32: their scales are wrong": (
        "{where} ({names}) चे भार FP32 च्या {factor} पट आहेत: त्यांचे स्केल चुकीचे आहेत"
    ),
    "rows {i} and {j} of {tensor} are exchanged{tokens}": ("{tensor} मधील ओळी {i} आणि {j} यांची अदलाबदल झाली आहे{tokens}"),
    "rows {rows} of {tensor} are not those of FP32": "{tensor} मधील ओळी {rows} FP32 च्या नाहीत",
    "rounding changed {count} of the matrices more coarsely than 4 bits need (error {error}, 4 bits give about 10 %): {names}": (
        "{count} मॅट्रिक्स 4 बिटांपेक्षा जाड पूर्णांकात आहेत (चूक {error}, 4 बिटांत सुमारे 10 %): {names}"
    ),
    "build the model file again from the FP32 weights": "FP32 भारांपासून मॉडेल फाइल पुन्हा तयार करा",
    "let the builder try the steps below in turn": "खालील उपाय प्रोग्रामला एकामागोमाग करू द्या",
    "the weights were rounded to the nearest value, without calibration": ("भार कॅलिब्रेशनशिवाय जवळच्या मूल्यावर आणले होते"),
    "calibrate the 4-bit weights on your text": "4-बिट भार तुमच्या मजकुरावर कॅलिब्रेट करा",
    "one language loses more than the others: the calibration text has too little of it": (
        "एका भाषेचे नुकसान इतरांपेक्षा जास्त आहे: कॅलिब्रेशनच्या मजकुरात ती फार कमी आहे"
    ),
    "calibrate on more text": "अधिक मजकुरावर कॅलिब्रेट करा",
    "{names} carry {share} of the error": "{share} चूक {names} मध्ये आहे",
    "store {names} with 8 bits": "{names} 8 बिटांत साठवा",
    "train the 4-bit weights (QAT) for {steps} steps": "4-बिट भारांना {steps} पायऱ्या प्रशिक्षण द्या (QAT)",
    # figures of the usefulness
    "Answers in the right language": "योग्य भाषेतील उत्तरे",
    "{share} of the answers are in the right language": "{share} उत्तरे योग्य भाषेत आहेत",
    "Answers that repeat themselves": "तेच ते पुन्हा सांगणारी उत्तरे",
    "{share} of the answers repeat themselves": "{share} उत्तरे तेच ते पुन्हा सांगतात",
    "Invented words, above text of people": "माणसांच्या मजकुरापेक्षा जास्त बनावट शब्द",
    "{model} of the words are not in the training text; in held-out text of people {human}": (
        "{model} शब्द प्रशिक्षण मजकुरात नाहीत; माणसांच्या बाजूला ठेवलेल्या मजकुरात {human}"
    ),
    "Bits per byte above a 5-gram model": "5-ग्रॅम मॉडेलपेक्षा जास्त बिट प्रति बाइट",
    "the model needs {model} bits per byte, a 5-gram model of the same text {ngram}": (
        "मॉडेलला {model} बिट प्रति बाइट लागतात, त्याच मजकुराच्या 5-ग्रॅम मॉडेलला {ngram}"
    ),
    "Answers that depend on the question": "प्रश्नावर अवलंबून असलेली उत्तरे",
    "the model chooses the right one of two questions for an answer in {share} of the cases (chance: 50 %)": (
        "दोन प्रश्नांपैकी उत्तराचा खरा प्रश्न मॉडेल {share} वेळा ओळखते (योगायोगाने: 50 %)"
    ),
    "Answers that belong to their question": "स्वतःच्या प्रश्नाला जुळणारी उत्तरे",
    "the model's answers are closer to a person's answer to the same question than to one to another question in {share} of the "
    "comparisons (chance: 50 %)": (
        "{share} तुलनांमध्ये मॉडेलचे उत्तर, दुसऱ्या प्रश्नाच्या उत्तरापेक्षा त्याच प्रश्नाला माणसाने दिलेल्या उत्तराच्या जवळ आहे (योगायोगाने: 50 %)"
    ),
    "the answers are often not about their question: many would serve another question as well": (
        "उत्तरे बऱ्याचदा प्रश्नाला धरून नाहीत: अनेक उत्तरे दुसऱ्या प्रश्नालाही तितकीच चालली असती"
    ),
    "Answers about the question": "प्रश्नाविषयीची उत्तरे",
    "{share} of the answers have a word that belongs to the question": "{share} उत्तरांत प्रश्नाशी संबंधित शब्द आहे",
    "Broken letters": "तुटलेली अक्षरे",
    "{share} of the letters are broken": "{share} अक्षरे तुटलेली आहेत",
    "Answers that the model ends itself": "मॉडेलने स्वतः संपवलेली उत्तरे",
    "{share} of the answers end by themselves": "{share} उत्तरे आपोआप संपतात",
    "Answers copied from the training text": "प्रशिक्षण मजकुरातून उचललेली उत्तरे",
    "{share} of the answers are copied from the training text": "{share} उत्तरे प्रशिक्षण मजकुरातून उचललेली आहेत",
    "Validation text that the training text has, too": "प्रशिक्षण मजकुरातही असलेला चाचणी मजकूर",
    "{share} of the validation text is in the training text, too": "{share} चाचणी मजकूर प्रशिक्षण मजकुरातही आहे",
    "Training loss minus validation loss": "प्रशिक्षण लॉस वजा चाचणी लॉस",
    "the loss on the validation text is {gap} below that on the training text": ("चाचणी मजकुरावरील लॉस प्रशिक्षण मजकुरापेक्षा {gap} ने कमी आहे"),
    "the training text has no {languages}, so the model cannot answer in it": (
        "प्रशिक्षण मजकुरात {languages} नाही, त्यामुळे मॉडेल त्यात उत्तर देऊ शकत नाही"
    ),
    # causes and remedies of the usefulness
    "validation text stands in the training text, so the loss says nothing about new text": (
        "चाचणी मजकूर प्रशिक्षण मजकुरात आहे, त्यामुळे लॉस नव्या मजकुराविषयी काही सांगत नाही"
    ),
    "prepare the text and train again, so that the validation text is left out": (
        "मजकूर पुन्हा तयार करा आणि चाचणी मजकूर वगळून पुन्हा प्रशिक्षण द्या"
    ),
    "remove one of the texts that quote each other from your sources, and train again": (
        "एकमेकांचे उतारे असलेल्या मजकुरांपैकी एक तुमच्या स्रोतांमधून काढा आणि पुन्हा प्रशिक्षण द्या"
    ),
    "the model predicts the validation text better than its training text: it was probably trained on it": (
        "मॉडेल प्रशिक्षण मजकुरापेक्षा चाचणी मजकुराचा अंदाज चांगला करते: बहुधा त्याच मजकुरावर प्रशिक्षण झाले आहे"
    ),
    "train again without the validation text": "चाचणी मजकुराशिवाय पुन्हा प्रशिक्षण द्या",
    "the model repeats its training text instead of answering": ("मॉडेल उत्तर देण्याऐवजी प्रशिक्षण मजकूर पुन्हा सांगते"),
    "add more varied text": "अधिक विविध मजकूर घाला",
    "{number} of {total} answers that should be in {expected} have no words": (
        "{expected} भाषेत हव्या असलेल्या {total} पैकी {number} उत्तरांत शब्द नाहीत"
    ),
    "{number} of {total} answers that should be in {expected} are in {got}": (
        "{expected} भाषेत हव्या असलेल्या {total} पैकी {number} उत्तरे {got} भाषेत आहेत"
    ),
    "the repetition penalty is low ({penalty})": "पुनरावृत्तीचा दंड कमी आहे ({penalty})",
    "raise the repetition penalty": "पुनरावृत्तीचा दंड वाढवा",
    "answer with a lower temperature": "कमी तापमानाने उत्तर द्या",
    "compare the kept checkpoints: another one may answer better": "ठेवलेले चेकपॉइंट तपासा: दुसरा एखादा अधिक चांगली उत्तरे देऊ शकतो",
    "give {language} a larger share of the training": "प्रशिक्षणात {language} भाषेचा वाटा वाढवा",
    "add conversations in {language}": "{language} भाषेतील संभाषणे घाला",
    "add more text": "अधिक मजकूर घाला",
    "the validation loss is {gap} above the training loss: the model learned its text by heart": (
        "चाचणी लॉस प्रशिक्षण लॉसपेक्षा {gap} ने जास्त आहे: मॉडेलने मजकूर पाठ केला आहे"
    ),
    "the validation loss rose again after step {step}: the model learned its text by heart": (
        "पायरी {step} नंतर चाचणी लॉस पुन्हा वाढला: मॉडेलने मजकूर पाठ केला आहे"
    ),
    "no step of the training was better than the model from which it started, so that one was kept": (
        "प्रशिक्षणाची कोणतीही पायरी सुरुवातीच्या मॉडेलपेक्षा चांगली नव्हती, म्हणून सुरुवातीचेच मॉडेल ठेवले आहे"
    ),
    "train with a quarter of the learning rate": "शिकण्याचा दर एक चतुर्थांश करून प्रशिक्षण द्या",
    "the validation loss still fell by {fall} in the last fifth of the training": (
        "प्रशिक्षणाच्या शेवटच्या पाचव्या भागातही चाचणी लॉस {fall} ने कमी झाला"
    ),
    "train twice as long": "दुप्पट वेळ प्रशिक्षण द्या",
    "the text was read {epochs} times; more than {most} times teach little": (
        "मजकूर {epochs} वेळा वाचला; {most} पेक्षा जास्त वेळा वाचून फारसे शिकता येत नाही"
    ),
    "read the text less often": "मजकूर कमी वेळा वाचा",
    "{tokens} tokens of text are little for {parameters} parameters, which can use {wanted}": (
        "{parameters} पॅरामीटरसाठी {tokens} टोकन मजकूर कमी आहे; {wanted} वापरता येतील"
    ),
    "{tokens} training tokens are little for {parameters} parameters": ("{parameters} पॅरामीटरसाठी प्रशिक्षणाची {tokens} टोकन कमी आहेत"),
    # the page
    "BulletLM report": "BulletLM अहवाल",
    "{name}: report": "{name}: अहवाल",
    "A language model with {parameters} parameters for {languages}, trained on {size} of text; the model file has {file}.": (
        "{languages} भाषांसाठी {parameters} पॅरामीटरचे भाषा मॉडेल, {size} मजकुरावर प्रशिक्षित; मॉडेल फाइल {file} आहे."
    ),
    "Written by bullet evaluate. report.json has the same numbers and more.": (
        "bullet evaluate ने लिहिलेला अहवाल. report.json मध्ये हेच आणि आणखी आकडे आहेत."
    ),
    "Not available: {note}.": "उपलब्ध नाही: {note}.",
    "Results": "निकाल",
    "All figures and limits": "सर्व आकडे आणि मर्यादा",
    "Behaviour": "वागणूक",
    "Answers": "उत्तरे",
    "Against the model it started from": "सुरुवातीच्या मॉडेलशी तुलना",
    "On other text": "इतर मजकुरावर",
    "Training": "प्रशिक्षण",
    "Against the training text": "प्रशिक्षण मजकुराशी तुलना",
    "By language": "भाषेनुसार",
    "By source": "स्रोतानुसार",
    "Training text": "प्रशिक्षण मजकूर",
    "Tokenizer": "टोकनायझर",
    "Quantization by tensor": "प्रत्येक टेन्सरचे क्वांटायझेशन",
    "How to use the model": "मॉडेल कसे वापरावे",
    "Settings and versions": "सेटिंग आणि आवृत्त्या",
    "Glossary": "शब्दसूची",
    "Figure": "आकडा",
    "value": "मूल्य",
    "95 % interval": "95 % अंतराल",
    "limit": "मर्यादा",
    "result": "निकाल",
    "setting": "सेटिंग",
    # results
    "Measured on {tokens} tokens ({size} of text) that are not in the training text, in {windows} windows. FP32 is the trained "
    "model, {n}-bit is the file model.bullet ({bits} bits per weight). Intervals contain the true value in 95 of 100 cases "
    "(paired bootstrap over {count} {units}).": (
        "प्रशिक्षण मजकुरात नसलेल्या {tokens} टोकनवर ({size} मजकूर), {windows} खिडक्यांत मोजले. FP32 म्हणजे प्रशिक्षित मॉडेल, {n}-बिट म्हणजे "
        "model.bullet फाइल ({bits} बिट प्रति भार). अंतरालात खरे मूल्य 100 पैकी 95 वेळा असते ({count} {units} यांवर जोडीने बूटस्ट्रॅप)."
    ),
    "documents": "दस्तऐवज",
    "blocks of windows": "खिडक्यांचे गट",
    "{low} to {high}": "{low} ते {high}",
    "no interval: too little text": "अंतराल नाही: मजकूर फार कमी",
    "inside the noise": "योगायोगाच्या मर्यादेत",
    "perplexity": "परप्लेक्सिटी",
    "validation loss": "चाचणी लॉस",
    "bits per byte": "बिट प्रति बाइट",
    "size": "आकार",
    "{times} times smaller": "{times} पट लहान",
    "same top token": "सर्वाधिक शक्य टोकन सारखे",
    "of all positions have the same most likely next token in both": ("ठिकाणी दोन्हींचे सर्वाधिक शक्य पुढचे टोकन सारखे आहे"),
    "KL divergence": "KL अंतर",
    "nats per token; 0 means identical predictions": "नॅट प्रति टोकन; 0 म्हणजे अगदी सारखे अंदाज",
    "tokens": "टोकन",
    "perplexity FP32": "परप्लेक्सिटी FP32",
    "perplexity {n}-bit": "परप्लेक्सिटी {n}-बिट",
    "change": "बदल",
    "bits/byte FP32": "बिट/बाइट FP32",
    "bits/byte {n}-bit": "बिट/बाइट {n}-बिट",
    "bits/byte before": "बिट/बाइट आधी",
    "{n}-bit": "{n}-बिट",
    "Text": "मजकूर",
    "Language": "भाषा",
    "Source": "स्रोत",
    "Before: the model {name} (licence: {license}), from which the training started. A lower number is better: on the "
    "validation text it shows what the model learned, on other text a higher one shows what it forgot.": (
        "आधी: {name} हे मॉडेल (परवाना: {license}), ज्यापासून प्रशिक्षण सुरू झाले. लहान आकडा चांगला: चाचणी मजकुरावर तो मॉडेल काय शिकले हे "
        "दाखवतो, इतर मजकुरावर मोठा आकडा ते काय विसरले हे दाखवतो."
    ),
    "Text that is named by evaluate.also, without what the model was trained on.": (
        "evaluate.also मध्ये दिलेला मजकूर, प्रशिक्षणात वापरलेला भाग वगळून."
    ),
    # behaviour
    "Automatic checks of {prompts} answers of each version, with 95 % intervals.": (
        "प्रत्येक आवृत्तीच्या {prompts} उत्तरांची आपोआप तपासणी, 95 % अंतरालांसह."
    ),
    "text of people": "माणसांचा मजकूर",
    "in the right language": "योग्य भाषेत",
    "repeat themselves": "तेच ते पुन्हा सांगणारी",
    "ended by the model itself": "मॉडेलने स्वतः संपवलेली",
    "of a fitting length": "योग्य लांबीची",
    "have a word that belongs to the question": "प्रश्नाशी संबंधित शब्द असलेली",
    "copied from the training text": "प्रशिक्षण मजकुरातून उचललेली",
    "with a fault (wrong language, loop or broken letters)": ("दोष असलेली (चुकीची भाषा, पुनरावृत्ती किंवा तुटलेली अक्षरे)"),
    "invented words, of all words": "सर्व शब्दांपैकी बनावट शब्द",
    "broken letters, of all letters": "सर्व अक्षरांपैकी तुटलेली अक्षरे",
    "Prompts in {languages} are not judged, because the training text has no such language.": (
        "{languages} भाषेतील प्रश्न तपासले नाहीत, कारण प्रशिक्षण मजकुरात ती भाषा नाही."
    ),
    "Without sampling, {same} of {answers} answers are equal, and {tokens} of the tokens.": (
        "यादृच्छिक निवडीशिवाय {answers} पैकी {same} उत्तरे सारखी आहेत, आणि {tokens} टोकन."
    ),
    "Where they differ, it begins at token {place} (median).": ("जिथे ती वेगळी होतात, तिथे फरक टोकन {place} पासून सुरू होतो (मध्यक)."),
    "Of two questions, the model finds the right one for a person's answer: FP32 {a}, {n}-bit {b} (chance: 50 %).": (
        "माणसाने दिलेल्या उत्तराचा खरा प्रश्न दोन प्रश्नांपैकी मॉडेल ओळखते: FP32 {a}, {n}-बिट {b} (योगायोगाने: 50 %)."
    ),
    "Both versions answered {count} questions on which they were not trained. Their answers are closer to a person's answer to the "
    "same question than to one to another question in this share of the comparisons: FP32 {a}, {n}-bit {b}. Answers that do not depend "
    "on the question have 50 %; the answers of people to these questions have 100 %.": (
        "दोन्ही आवृत्त्यांनी प्रशिक्षणात नसलेल्या {count} प्रश्नांची उत्तरे दिली. इतक्या तुलनांमध्ये त्यांचे उत्तर, दुसऱ्या प्रश्नाच्या उत्तरापेक्षा त्याच "
        "प्रश्नाला माणसाने दिलेल्या उत्तराच्या जवळ आहे: FP32 {a}, {n}-बिट {b}. प्रश्नावर अवलंबून नसलेल्या उत्तरांना 50 % मिळतात; "
        "माणसांच्या उत्तरांना 100 %."
    ),
    "Answers to new questions": "नव्या प्रश्नांची उत्तरे",
    "a person": "माणूस",
    "{count} of them, without selection": "त्यांपैकी {count}, निवड न करता",
    "Longest passage from the training text: FP32 {a} words, {n}-bit {b} words.": (
        "प्रशिक्षण मजकुरातील सर्वांत लांब उतारा: FP32 {a} शब्द, {n}-बिट {b} शब्द."
    ),
    "chrF of {count} translations: FP32 {a}, {n}-bit {b} (0 to 100; good translations have 50 and more).": (
        "{count} भाषांतरांचे chrF: FP32 {a}, {n}-बिट {b} (0 ते 100; चांगल्या भाषांतरांचे 50 आणि जास्त)."
    ),
    "Invented words by language": "भाषेनुसार बनावट शब्द",
    "Facts of the training text": "प्रशिक्षण मजकुरातील तथ्ये",
    "Both versions were asked for {asked} facts. Wrong answers: FP32 {a}, {n}-bit {b}.": (
        "दोन्ही आवृत्त्यांना {asked} तथ्ये विचारली. चुकीची उत्तरे: FP32 {a}, {n}-बिट {b}."
    ),
    "The {n}-bit model is wrong more often than chance explains: use QAT or another calibration.": (
        "{n}-बिट मॉडेल योगायोगापेक्षा जास्त वेळा चुकते: QAT किंवा वेगळे कॅलिब्रेशन वापरा."
    ),
    "The difference is inside the noise.": "हा फरक योगायोगाच्या मर्यादेत आहे.",
    "Question": "प्रश्न",
    "expected": "अपेक्षित",
    "The first {count} of them": "त्यांतील पहिली {count}",
    # comparison with the training text
    "Comparison": "तुलना",
    "bits per byte of the {n}-bit model": "{n}-बिट मॉडेलचे बिट प्रति बाइट",
    "bits per byte of a 5-gram model of the same text ({tokens} tokens)": ("त्याच मजकुराच्या 5-ग्रॅम मॉडेलचे बिट प्रति बाइट ({tokens} टोकन)"),
    "validation loss of FP32, nats per token": "FP32 चा चाचणी लॉस, नॅट प्रति टोकन",
    "training loss of FP32, on {tokens} tokens": "{tokens} टोकनवर FP32 चा प्रशिक्षण लॉस",
    "validation text in sequences of {length} tokens that the training text has, too": (
        "प्रशिक्षण मजकुरातही असलेल्या {length} टोकनांच्या क्रमांतील चाचणी मजकूर"
    ),
    "validation text in passages that the training text repeats": "प्रशिक्षण मजकुरात पुन्हा येणाऱ्या उताऱ्यांतील चाचणी मजकूर",
    "{label}; also names and set phrases, which are no copies": "{label}; यात नावे आणि ठरावीक वाक्प्रयोगही येतात, ज्या नकला नाहीत",
    # training
    "{steps} steps": "{steps} पायऱ्या",
    "{tokens} tokens": "{tokens} टोकन",
    "{speed} tokens per second": "{speed} टोकन प्रति सेकंद",
    "The validation loss was lowest at step {step}; this report describes that model, with averaged (EMA) weights. ": (
        "पायरी {step} ला चाचणी लॉस सर्वांत कमी होता; हा अहवाल सरासरी (EMA) भारांसह त्या मॉडेलचा आहे. "
    ),
    "The validation loss was lowest at step {step}; this report describes that model. ": (
        "पायरी {step} ला चाचणी लॉस सर्वांत कमी होता; हा अहवाल त्या मॉडेलचा आहे. "
    ),
    "This report describes the model of step {step}, with averaged (EMA) weights. ": (
        "हा अहवाल सरासरी (EMA) भारांसह पायरी {step} च्या मॉडेलचा आहे. "
    ),
    "This report describes the model of step {step}. ": "हा अहवाल पायरी {step} च्या मॉडेलचा आहे. ",
    "Reason for the end of training: {reason}.": "प्रशिक्षण थांबण्याचे कारण: {reason}.",
    "The losses with logarithmic axes": "लॉगरिदमिक अक्षांवर लॉस",
    # answers
    "{prompts} prompts, the same for every model, given to both versions with the same seed ({seed}; {sampling}). Identical answers: "
    "{identical} of {prompts}. The answers are not cherry-picked. Words that only one version has are marked.": (
        "सर्व मॉडेलसाठी सारखे {prompts} प्रश्न, दोन्ही आवृत्त्यांना एकाच बीजाने दिलेले ({seed}; {sampling}). सारखी उत्तरे: {prompts} पैकी "
        "{identical}. उत्तरे निवडून घेतलेली नाहीत. फक्त एका आवृत्तीतील शब्द खुणेने दाखवले आहेत."
    ),
    "Average": "सरासरी",
    "ended with an end token": "शेवटच्या टोकनने संपले",
    "distinct word pairs (distinct-2)": "वेगळ्या शब्दजोड्या (distinct-2)",
    "longest repeated sequence, words": "पुन्हा आलेला सर्वांत लांब क्रम, शब्द",
    "letters in the script of the language": "भाषेच्या लिपीतील अक्षरे",
    "tokens per answer": "प्रत्येक उत्तरातील टोकन",
    "Short questions": "छोटे प्रश्न",
    "Long questions": "मोठे प्रश्न",
    "Translations": "भाषांतरे",
    "FP32 and {n}-bit (identical)": "FP32 आणि {n}-बिट (सारखे)",
    "(no answer)": "(उत्तर नाही)",
    "stopped at the token limit": "टोकन मर्यादेला थांबले",
    "{count} tokens": "{count} टोकन",
    "not in {language}": "{language} भाषेत नाही",
    "repeats itself": "तेच ते पुन्हा सांगते",
    "repeats {count} words": "{count} शब्द पुन्हा सांगते",
    "{count} broken letters": "{count} तुटलेली अक्षरे",
    "{count} invented words": "{count} बनावट शब्द",
    "no word of the question": "प्रश्नातील शब्द नाही",
    # training text
    "training": "प्रशिक्षण",
    "validation": "चाचणी",
    "documents and conversations": "दस्तऐवज आणि संभाषणे",
    "Of {seen} paragraphs and conversations in the sources, {kept} were kept ({share}).": (
        "स्रोतांतील {seen} परिच्छेद व संभाषणांपैकी {kept} ठेवली ({share})."
    ),
    "rows read": "वाचलेल्या ओळी",
    "kept": "ठेवले",
    "removed": "काढले",
    "characters kept": "ठेवलेली अक्षरे",
    "Removed, by rule": "नियमानुसार काढलेले",
    "Changed, by rule": "नियमानुसार बदललेले",
    "Rules that did not apply or are turned off: {rules}.": "लागू न झालेले किंवा बंद असलेले नियम: {rules}.",
    ", and {count} more": ", आणि आणखी {count}",
    "Not read: {files}.": "न वाचलेले: {files}.",
    "Training mixture": "प्रशिक्षणाचे मिश्रण",
    "language": "भाषा",
    "kind": "प्रकार",
    "tokens (estimated)": "टोकन (अंदाजे)",
    "repetitions": "पुनरावृत्ती",
    "tokens in training": "प्रशिक्षणातील टोकन",
    "share": "वाटा",
    "{count} passages of training text were compared with the validation text; none repeats it.": (
        "प्रशिक्षण मजकुरातील {count} उतारे चाचणी मजकुराशी तुलले; एकाही उताऱ्यात तो पुन्हा नाही."
    ),
    "Augmentation": "मजकूर वाढवणे",
    "Method": "पद्धत",
    "documents used": "वापरलेले दस्तऐवज",
    "sentences": "वाक्ये",
    "sentences kept": "ठेवलेली वाक्ये",
    "documents added": "जोडलेले दस्तऐवज",
    "characters added": "जोडलेली अक्षरे",
    "Sentences dropped: {reasons}.": "वगळलेली वाक्ये: {reasons}.",
    "No sentence was dropped.": "एकही वाक्य वगळले नाही.",
    # tokenizer
    "A vocabulary of {size} tokens. With fewer tokens per word (fertility), more text fits into the model's context.": (
        "{size} टोकनांचा शब्दसंग्रह. शब्दामागे टोकन कमी असतील तर मॉडेलच्या संदर्भात अधिक मजकूर मावतो."
    ),
    "tokens per word": "प्रत्येक शब्दाची टोकन",
    "characters per token": "प्रत्येक टोकनची अक्षरे",
    "bytes per token": "प्रत्येक टोकनचे बाइट",
    "characters encoded as bytes": "बाइट म्हणून लिहिलेली अक्षरे",
    "tokens that start with a combining mark": "जोडचिन्हाने सुरू होणारी टोकन",
    "The longest tokens: ": "सर्वांत लांब टोकन: ",
    "The rarest tokens in the training text, with their counts: ": ("प्रशिक्षण मजकुरातील सर्वांत दुर्मीळ टोकन, संख्येसह: "),
    "and {count} tokens that do not occur in it.": "आणि त्यात न येणारी {count} टोकन.",
    "Other vocabulary sizes": "शब्दसंग्रहाचे इतर आकार",
    "this run": "हे प्रशिक्षण",
    "Vocabulary": "शब्दसंग्रह",
    "embedding parameters": "एम्बेडिंगचे पॅरामीटर",
    "share of the model": "मॉडेलमधील वाटा",
    "words in the context": "संदर्भातील शब्द",
    # quantization
    "Steps of auto_fix": "auto_fix च्या पायऱ्या",
    "Step": "पायरी",
    "undone": "मागे घेतले",
    "yes": "हो",
    "no": "नाही",
    "limits hold": "मर्यादेत",
    "In {steps} steps on {tokens} tokens the 4-bit model was trained to predict as the FP32 model does (quantization-aware training, "
    "QAT). The file has the weights with the lowest divergence on the validation text.": (
        "{tokens} टोकनवर {steps} पायऱ्यांत 4-बिट मॉडेलला FP32 सारखे अंदाज करायला शिकवले (QAT). चाचणी मजकुरावर सर्वांत कमी अंतर असलेले भार फाइलमध्ये आहेत."
    ),
    "Quantization-aware training (QAT) was left out, because the 4-bit model differs from the FP32 model by less than the "
    "validation text can show.": ("4-बिट आणि FP32 यांतील फरक चाचणी मजकूर दाखवू शकेल त्यापेक्षा कमी असल्याने QAT केले नाही."),
    "Weights": "भार",
    "KL divergence, nats per token": "KL अंतर, नॅट प्रति टोकन",
    "before QAT": "QAT आधी",
    "after QAT": "QAT नंतर",
    "after QAT, averaged": "QAT नंतर, सरासरी",
    "this file": "ही फाइल",
    "Type": "प्रकार",
    "tensors": "टेन्सर",
    "weights": "भार",
    "bits per weight": "बिट प्रति भार",
    "mean error": "सरासरी चूक",
    "whole layer": "पूर्ण थर",
    "Other matrices: {names}.": "इतर मॅट्रिक्स: {names}.",
    "Effect of each matrix alone": "प्रत्येक मॅट्रिक्सचा एकट्याचा परिणाम",
    "The KL divergence from FP32 if only this matrix is quantized, in thousandths of a nat per token. In the whole file the "
    "effect is smaller, because the calibration of later matrices compensates for a part of it.": (
        "फक्त हे मॅट्रिक्स क्वांटाइझ केले तर FP32 पासून KL अंतर, नॅटच्या हजाराव्या भागांत. पूर्ण फाइलमध्ये परिणाम कमी असतो, कारण नंतरच्या "
        "मॅट्रिक्सचे कॅलिब्रेशन काही भाग भरून काढते."
    ),
    "Error of the outputs": "आउटपुटची चूक",
    "Mean square error of the outputs of each matrix on the calibration text, with all earlier matrices quantized too, as a "
    "share of their mean square. The matrices output and down also correct the error of the hidden state up to them.": (
        "कॅलिब्रेशन मजकुरावर, आधीचे सर्व मॅट्रिक्स क्वांटाइझ असताना, प्रत्येक मॅट्रिक्सच्या आउटपुटची वर्ग-सरासरी चूक, त्यांच्या वर्ग-सरासरीच्या "
        "प्रमाणात. output आणि down ही मॅट्रिक्स तोपर्यंतची चूकही दुरुस्त करतात."
    ),
    "Error of the weights": "भारांची चूक",
    "Root mean square error of the weights, relative to their root mean square. Calibration can increase it, because it "
    "minimizes the error of the outputs instead.": (
        "भारांची वर्गमूळ-सरासरी चूक, त्यांच्या वर्गमूळ-सरासरीच्या प्रमाणात. कॅलिब्रेशनने ती वाढू शकते, कारण ते आउटपुटची चूक कमी करते."
    ),
    # settings and glossary
    "Model": "मॉडेल",
    "Versions": "आवृत्त्या",
    "parameters": "पॅरामीटर",
    "license": "परवाना",
    "All settings": "सर्व सेटिंग",
    "Loss": "लॉस",
    "Mean of -ln p(next token) over the text, in nats per token. Lower is better.": (
        "मजकुरावर -ln p(पुढचे टोकन) ची सरासरी, नॅट प्रति टोकन. कमी म्हणजे चांगले."
    ),
    "Perplexity": "परप्लेक्सिटी",
    "exp(loss): 20 means that the model is as uncertain as if it chose between 20 equally likely tokens.": (
        "exp(लॉस): 20 म्हणजे 20 सारख्या शक्यतेच्या टोकनांतून निवडण्याइतकी मॉडेलची अनिश्चितता."
    ),
    "Bits per byte": "बिट प्रति बाइट",
    "The loss in bits per byte of text instead of per token; comparable between models with different vocabularies.": (
        "टोकनऐवजी मजकुराच्या प्रत्येक बाइटमागे बिटांत लॉस; वेगळा शब्दसंग्रह असलेल्या मॉडेलची तुलना करता येते."
    ),
    "FP32, {n}-bit": "FP32, {n}-बिट",
    "FP32 stores each weight as a 32-bit number. The .bullet file stores blocks of 32 weights, {n} bits each, with a common scale.": (
        "FP32 प्रत्येक भार 32 बिटांत साठवते. .bullet फाइल 32 भारांचे गट साठवते: प्रत्येकी {n} बिट आणि एक सामाईक स्केल."
    ),
    "FP32 stores each weight as a 32-bit number. The .bullet file stores each weight as a {n}-bit number.": (
        "FP32 प्रत्येक भार 32 बिटांत साठवते. .bullet फाइल प्रत्येक भार {n} बिटांत साठवते."
    ),
    "The distance between the next-token probabilities of the {n}-bit model and of FP32; 0 means they are identical.": (
        "{n}-बिट आणि FP32 यांच्या पुढच्या टोकनच्या शक्यतांतील अंतर; 0 म्हणजे त्या अगदी सारख्या आहेत."
    ),
    "The true value is in it in 95 of 100 cases. A difference whose interval contains 0 is inside the noise.": (
        "खरे मूल्य 100 पैकी 95 वेळा त्यात असते. ज्या फरकाच्या अंतरालात 0 आहे तो योगायोगाच्या मर्यादेत आहे."
    ),
    "5-gram model": "5-ग्रॅम मॉडेल",
    "A simple model that predicts a token from the four tokens before it. A language model must be better.": (
        "आधीच्या चार टोकनांवरून पुढचे टोकन सांगणारे साधे मॉडेल. भाषा मॉडेल त्यापेक्षा चांगले हवे."
    ),
    "Invented words": "बनावट शब्द",
    "Words of the answers that do not occur in the training text; people use such words, too, but not more often.": (
        "प्रशिक्षण मजकुरात नसलेले उत्तरांतील शब्द; माणसेही असे शब्द वापरतात, पण त्याहून जास्त नाहीत."
    ),
    "Distinct-2": "Distinct-2",
    "The share of pairs of adjacent words that are distinct. It is low for a model that repeats itself.": (
        "शेजारच्या शब्दांच्या वेगळ्या जोड्यांचे प्रमाण. तेच ते सांगणाऱ्या मॉडेलचे ते कमी असते."
    ),
    # the summary
    "A language model with {parameters} parameters for {languages}, trained on {size} of text, starting from the model {parent}, "
    "in {time}; the model file has {file}.": (
        "{languages} भाषांचे {parameters} पॅरामीटरचे भाषा-मॉडेल. {parent} या मॉडेलपासून सुरू करून {size} मजकुरावर {time} प्रशिक्षण दिले; "
        "मॉडेल फाइल {file} आहे."
    ),
    "A language model with {parameters} parameters for {languages}, trained on {size} of text, starting from the model {parent}; the "
    "model file has {file}.": (
        "{languages} भाषांचे {parameters} पॅरामीटरचे भाषा-मॉडेल. {parent} या मॉडेलपासून सुरू करून {size} मजकुरावर प्रशिक्षण दिले; मॉडेल फाइल {file} आहे."
    ),
    "A language model with {parameters} parameters for {languages}, trained on {size} of text in {time}; the model file has {file}.": (
        "{languages} भाषांचे {parameters} पॅरामीटरचे भाषा-मॉडेल. {size} मजकुरावर {time} प्रशिक्षण दिले; मॉडेल फाइल {file} आहे."
    ),
    "At {share} of all positions both versions have the same most likely next token.": (
        "{share} ठिकाणी दोन्ही आवृत्त्यांचे सर्वांत शक्य पुढचे टोकन एकच आहे."
    ),
    "A perplexity of {perplexity} means that the model is as uncertain about each token as if it chose between {count} equally likely "
    "tokens of its {tokens}.": (
        "{perplexity} परप्लेक्सिटी म्हणजे मॉडेल प्रत्येक टोकनाबाबत, आपल्या {tokens} पैकी {count} सारख्याच शक्यतेच्या टोकनांतून निवड करावी, इतके अनिश्चित आहे."
    ),
    "After step {step} of {steps} the validation loss rose again: the model started to memorize its training text "
    "(overfitting). More text or more varied text helps more than longer training.": (
        "{steps} पैकी {step} व्या पायरीनंतर चाचणी लॉस पुन्हा वाढला: मॉडेल प्रशिक्षण मजकूर पाठ करू लागले (अति-जुळणी). "
        "जास्त वेळ प्रशिक्षण देण्यापेक्षा जास्त किंवा वैविध्यपूर्ण मजकूर अधिक उपयोगी."
    ),
    "The {n}-bit file is {times} times smaller than FP32, without a measurable loss of quality: the difference in perplexity "
    "({change}) is within the statistical error.": (
        "{n}-बिट फाइल FP32 पेक्षा {times} पट लहान आहे आणि गुणवत्तेत मोजण्याजोगी घट नाही: परप्लेक्सिटीतील फरक ({change}) योगायोगाच्या मर्यादेत आहे."
    ),
    "The {n}-bit file is {times} times smaller than FP32 and does not predict this text worse: perplexity changes by {change}.": (
        "{n}-बिट फाइल FP32 पेक्षा {times} पट लहान आहे आणि या मजकुराचा अंदाज बिघडलेला नाही: परप्लेक्सिटी {change} ने बदलते."
    ),
    "The {n}-bit file is {times} times smaller than FP32 and almost as good: perplexity rises by {rise}.": (
        "{n}-बिट फाइल FP32 पेक्षा {times} पट लहान आणि जवळजवळ तितकीच चांगली आहे: परप्लेक्सिटी {rise} ने वाढते."
    ),
    "The {n}-bit file is {times} times smaller than FP32, with a noticeable loss of quality: perplexity rises by {rise}.": (
        "{n}-बिट फाइल FP32 पेक्षा {times} पट लहान आहे, पण गुणवत्तेत जाणवणारी घट आहे: परप्लेक्सिटी {rise} ने वाढते."
    ),
    "The {n}-bit file is {times} times smaller than FP32, but clearly worse: perplexity rises by {rise}.": (
        "{n}-बिट फाइल FP32 पेक्षा {times} पट लहान आहे, पण स्पष्टपणे वाईट आहे: परप्लेक्सिटी {rise} ने वाढते."
    ),
    "The new model learned its text: {after} bits per byte against the {before} of {parent}, from which the run started.": (
        "नवीन मॉडेल आपला मजकूर शिकले: {after} बिट प्रति बाइट; ज्यापासून सुरुवात झाली त्या {parent} चे {before}."
    ),
    "The new model did not learn anything measurable from its text: {after} bits per byte against the {before} of {parent}, "
    "from which the run started.": (
        "नवीन मॉडेल आपल्या मजकुरातून मोजण्याजोगे काही शिकले नाही: {after} बिट प्रति बाइट; ज्यापासून सुरुवात झाली त्या {parent} चे {before}."
    ),
    "On {text} it has {after} bits per byte against the {before} of {parent}, from which the run started ({change}): it has "
    "forgotten some of it.": (
        "{text}: {after} बिट प्रति बाइट; ज्यापासून सुरुवात झाली त्या {parent} चे {before} ({change}): त्यातील काही मॉडेल विसरले आहे."
    ),
    "On {text} it has {after} bits per byte against the {before} of {parent}, from which the run started ({change}): it has "
    "not forgotten it.": ("{text}: {after} बिट प्रति बाइट; ज्यापासून सुरुवात झाली त्या {parent} चे {before} ({change}): मॉडेल ते विसरलेले नाही."),
    # charts and matrices
    "Learning rate": "शिकण्याचा दर",
    "Speed (tokens per second)": "वेग (टोकन प्रति सेकंद)",
    "Gradient norm, before clipping": "ग्रेडियंटचा आकार (मर्यादेआधी)",
    "{title} by step": "पायऱ्यांनुसार {title}",
    "Training and validation loss by step": "पायऱ्यांनुसार प्रशिक्षण आणि चाचणीचा लॉस",
    "{caption}, logarithmic axes": "{caption}, लॉगरिदमिक अक्ष",
    "validation, averaged weights": "चाचणी, सरासरी भार",
    "validation, 4-bit weights": "चाचणी, 4-बिट भार",
    "best: step {step}": "सर्वोत्तम: पायरी {step}",
    "Loss (nats per token)": "लॉस (नॅट प्रति टोकन)",
    "step": "पायरी",
    "query": "क्वेरी",
    "key": "की",
    "output": "आउटपुट",
    "gate": "गेट",
    "up": "अप",
    "down": "डाउन",
    "embedding": "एम्बेडिंग",
    "line {number}": "ओळ {number}",
    "the loss of {parent}, from which the run started, is {gap} lower on the validation text than on the training text": (
        "ज्यापासून सुरुवात झाली त्या {parent} चा लॉस प्रशिक्षण मजकुरापेक्षा चाचणी मजकुरावर {gap} ने कमी आहे"
    ),
    "{parent}, from which the run started, predicts the validation text better than the training text: it was probably trained on it": (
        "ज्यापासून सुरुवात झाली ते {parent} प्रशिक्षण मजकुरापेक्षा चाचणी मजकुराचा अंदाज चांगला करते: बहुधा त्याचे प्रशिक्षण याच मजकुरावर झाले आहे"
    ),
    "start from a model that has not seen the validation text, or from random weights": (
        "चाचणी मजकूर न पाहिलेल्या मॉडेलपासून, किंवा यादृच्छिक भारांपासून सुरुवात करा"
    ),
}
