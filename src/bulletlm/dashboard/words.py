"""The words of the dashboard in Marathi. The keys are the English texts as the pages write them."""

from dataclasses import dataclass

LANGUAGES = {"en": "English", "mr": "मराठी"}

MARATHI: dict[str, str] = {
    "1 hour": "1 तास",
    "1. Open New run and add your text: files, or a folder.": "1. “नवे प्रशिक्षण” उघडा आणि तुमचा मजकूर जोडा: फाइली किंवा फोल्डर.",
    "1. Text to learn from": "1. शिकण्यासाठीचा मजकूर",
    "15 minutes": "15 मिनिटे",
    "2. Say how long it may take and let the settings be chosen, or paste your own.": "2. किती वेळ चालेल ते सांगा आणि प्रोग्रामला सेटिंग्ज निवडू द्या, किंवा तुमची सेटिंग्ज पेस्ट करा.",  # noqa: E501
    "2. Settings": "2. सेटिंग्ज",
    "3 hours": "3 तास",
    "3. Start it, watch it learn, then download the model and try it.": "3. सुरू करा, ते शिकताना पाहा, मग मॉडेल डाउनलोड करून वापरून पाहा.",
    "3. The same settings as a form": "3. तीच सेटिंग्ज फॉर्ममध्ये",
    "4-bit": "4-बिट",
    "4-bit against FP32 (perplexity)": "FP32 च्या तुलनेत 4-बिट (परप्लेक्सिटी)",
    "4-bit gap": "4-बिटमुळे पडणारा फरक",
    "4-bit model": "4-बिट मॉडेल",
    "4-bit weights": "4-बिट भार",
    "95 % interval": "95 % अंतराल",
    "A model that knows the language already learns from little text. Its shape and vocabulary are kept. Models of the package, of your runs, and uploaded .bullet and .gguf files can be chosen.": "भाषा आधीच येणारे मॉडेल थोड्या मजकुरातूनही शिकते. त्याचा आकार आणि शब्दसंग्रह तसाच राहतो. पॅकेजमधील मॉडेल्स, तुमच्या प्रशिक्षणांची मॉडेल्स आणि अपलोड केलेल्या .bullet व .gguf फाइली निवडता येतात.",  # noqa: E501
    "About how much main memory the training needs.": "प्रशिक्षणाला साधारण किती मेमरी लागेल.",
    "Add": "जोडा",
    "Add to the queue": "रांगेत ठेवा",
    "Agreement of the readers: {values}": "वाचकांमधील एकमत: {values}",
    "All answers are scored. Thank you!": "सर्व उत्तरांना गुण दिले. धन्यवाद!",
    "All figures": "सर्व आकडे",
    "All settings are the same.": "सर्व सेटिंग्ज सारखी आहेत.",
    "All states": "सर्व स्थिती",
    "Answer {letter}": "उत्तर {letter}",
    "Answers to the same prompts": "त्याच प्रश्नांची उत्तरे",
    "At how many places of the text both models find the same token the most likely one.": "मजकुरातील किती ठिकाणी दोन्ही मॉडेल्सना तेच टोकन सर्वाधिक शक्यतेचे वाटते.",  # noqa: E501
    "Augmentation": "मजकूर वाढवणे",
    "Back to the run": "प्रशिक्षणाकडे परत",
    "Before and after": "आधी आणि नंतर",
    "Before fine-tuning": "फाइन-ट्यूनिंगच्या आधीचे",
    "Begin with a recipe": "तयार रेसिपीपासून सुरुवात करा",
    "Best checkpoint": "सर्वोत्तम चेकपॉइंट",
    "Best validation loss": "सर्वांत कमी चाचणी लॉस",
    "Best validation loss (nats/token)": "सर्वांत कमी चाचणी लॉस (नॅट/टोकन)",
    "Between how many equally likely tokens the model hesitates at each place; lower is better. It depends on the vocabulary.": "प्रत्येक जागी मॉडेल सारख्याच शक्यतेच्या किती टोकनांमध्ये घुटमळते ते हा आकडा सांगतो; कमी असणे चांगले. तो शब्दसंग्रहावर अवलंबून असतो.",  # noqa: E501
    "Bits per byte": "प्रति बाइट बिट",
    "Bits that the model needs for a byte of unseen text. Lower is better.": "न पाहिलेल्या मजकुराच्या एका बाइटसाठी मॉडेलला लागणारे बिट. कमी असणे चांगले.",  # noqa: E501
    "Bits that the model needs for a byte of unseen text; lower is better. Models with any vocabulary can be compared.": "न पाहिलेल्या मजकुराच्या एका बाइटसाठी मॉडेलला लागणारे बिट; कमी असणे चांगले. वेगवेगळ्या शब्दसंग्रहांच्या मॉडेल्सचीही तुलना करता येते.",  # noqa: E501
    "Both epochs and total_steps are given: the shorter of the two ends the run.": "epochs आणि total_steps दोन्ही दिले आहेत: त्यांपैकी जे आधी पूर्ण होईल तिथे प्रशिक्षण संपेल.",  # noqa: E501
    "Both models give the same answer to every prompt, so there is nothing to score.": "दोन्ही मॉडेल्स प्रत्येक प्रश्नाला सारखेच उत्तर देतात, त्यामुळे गुण देण्यासारखे काही नाही.",  # noqa: E501
    "Both models on the same unseen text.": "दोन्ही मॉडेल्स त्याच, आधी न पाहिलेल्या मजकुरावर.",
    "BulletLM (.bullet)": "BulletLM (.bullet)",
    "Calibration": "कॅलिब्रेशन",
    "Calibration tokens": "कॅलिब्रेशनची टोकन",
    "Cancel": "रद्द करा",
    "Change of the perplexity from FP32 weights to the 4-bit file. 0 is ideal.": "FP32 भारांच्या तुलनेत 4-बिट फाइलच्या परप्लेक्सिटीत पडलेला फरक. 0 सर्वांत चांगला.",  # noqa: E501
    "Changed": "बदल झाला",
    "Characters": "अक्षरे",
    "Characters of text after cleaning, without exact copies.": "स्वच्छ केल्यानंतर आणि हुबेहूब प्रती वगळून उरलेली अक्षरे.",
    "Checkpoint": "चेकपॉइंट",
    "Choose the settings for me": "माझ्यासाठी सेटिंग्ज निवडा",
    "Choose the text first.": "आधी मजकूर निवडा.",
    "Cleaning": "मजकूर स्वच्छ करणे",
    "Cleaning the text": "मजकूर स्वच्छ करत आहे",
    "Clear all": "सर्व पुसा",
    "Close": "बंद करा",
    "Coherence": "सुसंगती",
    "Coherence. 1: sentences do not belong together, 3: mostly one thought, 5: one clear thought from start to end.": "सुसंगती. 1: वाक्यांचा एकमेकांशी संबंध नाही, 3: बहुतेक एकच विचार, 5: सुरुवातीपासून शेवटपर्यंत एक स्पष्ट विचार.",  # noqa: E501
    "Colours of the system": "संगणकाप्रमाणे रंग",
    "Compare": "तुलना करा",
    "Configuration: paste JSON here, comments are allowed": "कॉन्फिगरेशन: JSON येथे पेस्ट करा, टिप्पण्या चालतात",
    "Conversations": "संभाषणे",
    "Dark": "गडद",
    "Data": "डेटा",
    "Delete": "हटवा",
    "Delete these runs?": "ही प्रशिक्षणे हटवायची का?",
    "Depth": "विचारांची खोली",
    "Different settings": "वेगळी सेटिंग्ज",
    "Divergence (KL, nats/token)": "अंदाजांमधील फरक (KL, नॅट/टोकन)",
    "Do this": "हे करा",
    "Document length": "दस्तऐवजाची लांबी",
    "Documents": "दस्तऐवज",
    "Documents and conversations in the examined part of the text.": "तपासलेल्या भागातील दस्तऐवज आणि संभाषणे.",
    "Download": "डाउनलोड",
    "Drop tokens whose probability is below this share of the likeliest one's.": "सर्वाधिक शक्यतेच्या टोकनाच्या तुलनेत ज्यांची शक्यता या प्रमाणापेक्षा कमी आहे ती टोकन वगळा.",  # noqa: E501
    "Duplicate with changes": "प्रत काढून बदल करा",
    "Encoding the text": "मजकूर टोकनांमध्ये बदलत आहे",
    "Enter your name to begin. The names of the models stay hidden.": "सुरू करण्यासाठी तुमचे नाव लिहा. मॉडेल्सची नावे दाखवली जात नाहीत.",
    "Evaluation": "मूल्यमापन",
    "Every file is read again after it was written, and its model must generate the same tokens as the original; otherwise it is not offered.": "प्रत्येक फाइल लिहिल्यानंतर पुन्हा वाचली जाते, आणि तिच्यातील मॉडेलने मूळ मॉडेलसारखीच टोकन द्यायला हवीत; नाहीतर ती डाउनलोडसाठी दिली जात नाही.",  # noqa: E501
    "Expected bits per byte of unseen text, by a formula that was fitted to earlier runs of this program.": "न पाहिलेल्या मजकुरासाठी अपेक्षित प्रति बाइट बिट; या प्रोग्रामच्या आधीच्या प्रशिक्षणांवरून काढलेल्या सूत्रानुसार.",  # noqa: E501
    "Expected loss": "अपेक्षित लॉस",
    "Expected time of the training; the other stages take a few minutes.": "प्रशिक्षणाला लागणारा अपेक्षित वेळ; इतर टप्प्यांना काही मिनिटे लागतात.",
    "Expected tokens per second of the training on this computer.": "या संगणकावर प्रशिक्षणाचा अपेक्षित वेग, टोकन प्रति सेकंद.",
    "Extra args: paste a line of flags here, such as --lr=5e-4": "जादा पर्याय (extra args): पर्यायांची ओळ येथे पेस्ट करा, उदा. --lr=5e-4",
    "FP32 against 4-bit": "FP32 आणि 4-बिट यांची तुलना",
    "FP32 model": "FP32 मॉडेल",
    "Factual safety": "सत्यता आणि सुरक्षितता",
    "Factual safety. 1: false or harmful claims, 3: doubtful, 5: nothing false or harmful.": "सत्यता आणि सुरक्षितता. 1: खोटी किंवा घातक विधाने, 3: शंकास्पद, 5: खोटे किंवा घातक काहीही नाही.",  # noqa: E501
    "File size": "फाइलचा आकार",
    "Files": "फाइली",
    "Files that are read.": "वाचल्या जाणाऱ्या फाइली.",
    "Format": "फॉरमॅट",
    "Generation": "मजकूरनिर्मिती",
    "Gradient norm": "ग्रेडियंटचे परिमाण",
    "Grammar": "व्याकरण",
    "Horizontal axis": "आडवा अक्ष",
    "How badly the model predicts the next token of the text that it learns from.": "मॉडेल ज्या मजकुरातून शिकते त्यातील पुढच्या टोकनाचा अंदाज किती चुकतो.",  # noqa: E501
    "How badly the model predicts the next token of unseen text; lower is better.": "न पाहिलेल्या मजकुरातील पुढच्या टोकनाचा अंदाज किती चुकतो; कमी असणे चांगले.",  # noqa: E501
    "How badly the model predicts the next token; lower is better. Training: on the text that it learns from. Validation: on text that it never sees. If validation rises while training falls, the model learns its text by heart.": "पुढच्या टोकनचा अंदाज किती चुकतो ते हा आकडा सांगतो; कमी असणे चांगले. प्रशिक्षण: मॉडेल ज्या मजकुरातून शिकते त्यावर. चाचणी: मॉडेलने कधीही न पाहिलेल्या मजकुरावर. प्रशिक्षण लॉस कमी होत असताना चाचणी लॉस वाढला, तर मॉडेल मजकूर पाठ करत आहे.",  # noqa: E501
    "How far the probabilities of the 4-bit model are from those of FP32; 0 is ideal.": "4-बिट मॉडेलच्या शक्यता FP32 च्या शक्यतांपासून किती दूर आहेत; 0 सर्वांत चांगला.",  # noqa: E501
    "How many files of each kind are read.": "प्रत्येक प्रकारच्या किती फाइली वाचल्या जातात.",
    "How many texts each rule drops or changes, and how many characters are lost. The form below changes the rules.": "प्रत्येक नियम किती मजकूर वगळतो किंवा बदलतो, आणि त्यात किती अक्षरे जातात. खालच्या फॉर्ममध्ये हे नियम बदलता येतात.",  # noqa: E501
    "How many tokens of text the training reads in a second. It falls while other programs use the processor.": "प्रशिक्षण एका सेकंदात मजकुराची किती टोकन वाचते. इतर प्रोग्राम प्रोसेसर वापरत असताना हा वेग कमी होतो.",  # noqa: E501
    "How much a step changes the weights. The rate rises at first, then falls.": "भारांमध्ये किती मोठे बदल होतात ते हा आकडा सांगतो. तो आधी वाढतो आणि मग कमी होतो.",  # noqa: E501
    "How much the perplexity rises when the FP32 weights are rounded to 4 bits, in percent. 0 is ideal.": "FP32 भार 4 बिटांमध्ये बदलल्यावर परप्लेक्सिटी किती टक्के वाढते. 0 सर्वांत चांगला.",  # noqa: E501
    "How much the predictions change if only this matrix is rounded to 4 bits (KL divergence, nats per token).": "फक्त हे मॅट्रिक्स 4 बिटांमध्ये बदलले तर अंदाज किती बदलतात (KL, नॅट प्रति टोकन).",  # noqa: E501
    "How often the training reads the text.": "प्रशिक्षण मजकूर किती वेळा वाचते.",
    "How tokens are chosen": "टोकन कशी निवडली जातात",
    "Hugging Face (folder, .zip)": "Hugging Face (फोल्डर, .zip)",
    "In how many of the judgements the answer of this model was the better one.": "किती निकालांमध्ये या मॉडेलचे उत्तर जास्त चांगले ठरले.",
    "Is the 4-bit model as good as FP32?": "4-बिट मॉडेल FP32 इतकेच चांगले आहे का?",
    "Is the model any good?": "मॉडेल उपयोगी आहे का?",
    "It needs more memory than this computer has: choose a smaller width or a smaller batch.": "यासाठी या संगणकात आहे त्यापेक्षा जास्त मेमरी लागेल: लहान रुंदी किंवा लहान बॅच निवडा.",  # noqa: E501
    "Its simple part": "त्याचा सोपा भाग",
    "Keep only the k likeliest tokens; 0 keeps all.": "फक्त सर्वाधिक शक्यतेची k टोकन ठेवा; 0 असल्यास सर्व.",
    "Keep the likeliest tokens that together reach this probability.": "ज्यांच्या शक्यतांची बेरीज इथपर्यंत पोचते तेवढीच सर्वाधिक शक्यतेची टोकन ठेवा.",
    "Keys: 1 to 5 score the marked criterion, Backspace removes the last score. When all are scored, press A or B for the better answer, or 0 for no difference.": "कळा: 1 ते 5 ने चौकटीतील निकषाला गुण द्या, Backspace ने शेवटचे गुण काढा. सर्व गुण दिल्यावर जास्त चांगल्या उत्तरासाठी A किंवा B दाबा, फरक नसेल तर 0.",  # noqa: E501
    "Kinds of files": "फाइलींचे प्रकार",
    "Krippendorff's alpha: 1 is full agreement, 0 is what chance gives.": "Krippendorff चा alpha: 1 म्हणजे पूर्ण एकमत, 0 म्हणजे योगायोगाने होईल तेवढे.",  # noqa: E501
    "Languages": "भाषा",
    "Largest number of tokens of an answer.": "एका उत्तरातील टोकनांची कमाल संख्या.",
    "Learning rate": "लर्निंग रेट",
    "Learning the vocabulary": "शब्दसंग्रह शिकत आहे",
    "Length of the answer, and how many tokens the model wrote in a second on this computer. Hold the mouse over a token to see its probability and the most likely alternatives.": "उत्तराची लांबी, आणि या संगणकावर मॉडेलने एका सेकंदात लिहिलेली टोकन. टोकनावर माउस ठेवल्यास त्याची शक्यता आणि सर्वाधिक शक्य असलेले पर्याय दिसतात.",  # noqa: E501
    "Length of the gradient of a step, before it is clipped. Sudden jumps are a sign of an unstable training.": "मर्यादा घालण्यापूर्वीची एका पायरीच्या ग्रेडियंटची लांबी. अचानक उड्या दिसल्या तर प्रशिक्षण अस्थिर आहे.",  # noqa: E501
    "Less than half of the text would be read: give more steps or epochs.": "निम्म्याहून कमी मजकूर वाचला जाईल: जास्त steps किंवा epochs द्या.",
    "Light": "उजळ",
    "Limits of the report card": "प्रगतिपुस्तकाच्या मर्यादा",
    "Log": "नोंदी",
    "Logarithmic": "लॉगरिदमिक",
    "Longest answer (tokens)": "उत्तराची कमाल लांबी (टोकन)",
    "Looking at the text ...": "मजकूर पाहत आहे ...",
    "Looking at the text and measuring this computer ...": "मजकूर पाहत आहे आणि संगणकाचा वेग मोजत आहे ...",
    "Loss": "लॉस",
    "Loss (nats/token)": "लॉस (नॅट/टोकन)",
    "Lowest loss on text that the model never saw, in nats per token.": "मॉडेलने कधीही न पाहिलेल्या मजकुरावरील सर्वांत कमी लॉस, नॅट प्रति टोकन.",
    "Lowest loss on text that the model never saw, in nats per token; lower is better. Compare it only between models with the same vocabulary.": "मॉडेलने कधीही न पाहिलेल्या मजकुरावरील सर्वांत कमी लॉस, नॅट प्रति टोकन; कमी असणे चांगले. एकच शब्दसंग्रह असलेल्या मॉडेल्सचीच यावरून तुलना करा.",  # noqa: E501
    "Main memory that the processes of the run use now.": "हे प्रशिक्षण आत्ता वापरत असलेली मेमरी.",
    "Make the file and check it": "फाइल तयार करा आणि तपासा",
    "Make your first model": "तुमचे पहिले मॉडेल बनवा",
    "Mean of the points, from 1 to 5.": "गुणांची सरासरी, 1 ते 5.",
    "Median length of a document.": "दस्तऐवजाची मध्यक लांबी.",
    "Memory": "मेमरी",
    "Min p": "Min p",
    "Minutes": "मिनिटे",
    "Mixture": "मिश्रण",
    "Model": "मॉडेल",
    "Model card (.md)": "मॉडेलची माहिती (model card, .md)",
    "Name": "नाव",
    "New conversation": "नवे संभाषण",
    "New run": "नवे प्रशिक्षण",
    "No difference": "फरक नाही",
    "No run yet": "अजून एकही प्रशिक्षण नाही",
    "Not read": "वाचली नाही",
    "NumPy (FP32 tensors, .zip)": "NumPy (FP32 टेन्सर, .zip)",
    "Number of weights of the model.": "मॉडेलमधील भारांची संख्या.",
    "Numbers": "आकडे",
    "Optimizer steps of the training.": "प्रशिक्षणाच्या पायऱ्या.",
    "Or a folder or file on this computer": "किंवा या संगणकावरील फोल्डर किंवा फाइल",
    "Pages": "पाने",
    "Parameters": "पॅरामीटर",
    "Passes over the text": "मजकुराची आवर्तने",
    "Perplexity": "परप्लेक्सिटी",
    "Perplexity (tokens)": "परप्लेक्सिटी (टोकन)",
    "Plan": "नियोजन",
    "Playground": "वापरून पाहा",
    "Prepare a new run with this change": "या बदलासह नवे प्रशिक्षण तयार करा",
    "Processor": "प्रोसेसर",
    "Processor cores that the run uses now.": "हे प्रशिक्षण आत्ता वापरत असलेले प्रोसेसर कोअर.",
    "Progress": "प्रगती",
    "Prompt": "प्रश्न",
    "Quantization": "क्वांटायझेशन",
    "Quantization-aware training": "क्वांटायझेशनसह प्रशिक्षण",
    "Quantize again": "पुन्हा क्वांटाइझ करा",
    "Quantize and export": "क्वांटाइझ करा आणि निर्यात करा",
    "Quantize and write the report card": "क्वांटाइझ करा आणि प्रगतिपुस्तक लिहा",
    "Quantizing": "क्वांटाइझ करत आहे",
    "Random weights": "यादृच्छिक भार (नव्याने)",
    "Randomness of the choice of tokens; 0 always takes the likeliest one.": "टोकन निवडताना किती यादृच्छिकता असावी; 0 असल्यास नेहमी सर्वाधिक शक्यतेचे टोकन.",  # noqa: E501
    "Readers: {names}": "वाचक: {names}",
    "Remove from the queue": "रांगेतून काढा",
    "Repetition penalty": "पुनरावृत्तीसाठी दंड",
    "Report card": "प्रगतिपुस्तक",
    "Reset zoom": "पूर्ण आलेख",
    "Resume": "पुढे सुरू करा",
    "Rows": "ओळी",
    "Rules of cleaning": "स्वच्छतेचे नियम",
    "Run": "प्रशिक्षण",
    "Running: a process works on it. Waiting: it is in the queue and starts when no other run is running. Finished: the report card is there. Stopped: it can be resumed. Failed: it ended with an error, which the page of the run shows.": "चालू: काम सुरू आहे. रांगेत: दुसरे कोणतेही प्रशिक्षण चालू नसेल तेव्हा सुरू होईल. पूर्ण: प्रगतिपुस्तक तयार आहे. थांबले: पुढे सुरू करता येते. अयशस्वी: चूक होऊन संपले; ती प्रशिक्षणाच्या पानावर दिसते.",  # noqa: E501
    "Runs": "प्रशिक्षणे",
    "Same most likely token": "सर्वाधिक शक्यतेचे टोकन सारखे",
    "Save as training data": "प्रशिक्षणासाठी जतन करा",
    "Saved in {file}.": "{file} मध्ये जतन केले.",
    "Score": "गुण द्या",
    "Score answers without knowing the model": "कोणत्या मॉडेलचे ते न कळता उत्तरांना गुण द्या",
    "Score every criterion first.": "आधी प्रत्येक निकषाला गुण द्या.",
    "Search by name": "नावाने शोधा",
    "Second model minus first, answer by answer, with its 95 % interval.": "दुसरे मॉडेल वजा पहिले, एकेका उत्तरासाठी, 95 % अंतरालासह.",
    "Second model, for comparison": "तुलनेसाठी दुसरे मॉडेल",
    "Seed": "सीड",
    "Select all runs": "सर्व प्रशिक्षणे निवडा",
    "Select runs in the list first.": "आधी यादीतून प्रशिक्षणे निवडा.",
    "Send": "पाठवा",
    "Sensitivity of the matrices": "मॅट्रिक्सची संवेदनशीलता",
    "Share of the characters in each language, as recognized.": "ओळखलेल्या प्रत्येक भाषेतील अक्षरांचे प्रमाण.",
    "Share of the characters that are in conversations.": "संभाषणांमधील अक्षरांचे प्रमाण.",
    "Size of the 4-bit model file.": "4-बिट मॉडेल फाइलचा आकार.",
    "Size of the 4-bit weights in the model file.": "मॉडेल फाइलमधील 4-बिट भारांचा आकार.",
    "Size of the model file with these weights.": "हे भार असलेल्या मॉडेल फाइलचा आकार.",
    "Size of the vocabulary": "शब्दसंग्रहाचा आकार",
    "Smoothing": "आलेख गुळगुळीत करणे",
    "Speed": "वेग",
    "Spelling and grammar. 1: cannot be read, 3: some mistakes, 5: none.": "शुद्धलेखन आणि व्याकरण. 1: वाचता येत नाही, 3: काही चुका, 5: चुका नाहीत.",  # noqa: E501
    "Start": "सुरू करा",
    "Start a new run from this model": "या मॉडेलपासून नवे प्रशिक्षण सुरू करा",
    "Start from": "कशापासून सुरुवात",
    "State": "स्थिती",
    "Steps": "पायऱ्या",
    "Steps of training with 4-bit weights (QAT)": "4-बिट भारांसह प्रशिक्षणाच्या पायऱ्या (QAT)",
    "Stop": "थांबवा",
    "Stop after this step": "या पायरीनंतर थांबवा",
    "Stop and keep the best": "थांबवा आणि सर्वोत्तम ठेवा",
    "Temperature": "टेम्परेचर",
    "Text": "मजकूर",
    "Text, Word, PDF, EPUB, web pages, tables, subtitles, chats and archives are read. Files stay on this computer.": "मजकूर, Word, PDF, EPUB, वेब पाने, तक्ते, सबटायटल, चॅट आणि संग्रह (archive) वाचता येतात. फाइली याच संगणकावर राहतात.",  # noqa: E501
    "The 4-bit model is measured against the FP32 weights. Green figures keep the limits of the settings (report.limits), orange ones are too close to a limit to be sure, and red ones exceed it.": "4-बिट मॉडेलची FP32 भारांशी तुलना केली जाते. हिरवे आकडे सेटिंग्जमधील मर्यादेत (report.limits) आहेत, केशरी मर्यादेच्या इतके जवळ आहेत की तो योगायोग असू शकतो, आणि लाल मर्यादेबाहेर आहेत.",  # noqa: E501
    "The answers of the report card to two questions: is the 4-bit model as good as FP32, and is the model any good?": "प्रगतिपुस्तकातील दोन प्रश्नांची उत्तरे: 4-बिट मॉडेल FP32 इतकेच चांगले आहे का, आणि मॉडेल उपयोगी आहे का?",  # noqa: E501
    "The corpus of the package": "पॅकेजमधील मजकूर",
    "The first answers come with the first validation.": "पहिली उत्तरे पहिल्या चाचणीनंतर दिसतील.",
    "The log is empty.": "अजून एकही नोंद नाही.",
    "The model decides its shape and vocabulary, so these settings were taken out: {names}.": "आकार आणि शब्दसंग्रह मॉडेलच ठरवते, म्हणून ही सेटिंग्ज काढून टाकली: {names}.",  # noqa: E501
    "The model file, whose weights have 4.5 or 8.5 bits each.": "मॉडेलची फाइल; तिच्यात प्रत्येक भार 4.5 किंवा 8.5 बिटांचा असतो.",
    "The model with the weights as they were trained, 32 bits each.": "प्रशिक्षणातून मिळालेल्या भारांचे मॉडेल; प्रत्येक भार 32 बिटांचा.",
    "The package has a finished model that you can try at once:": "पॅकेजमधील तयार मॉडेल लगेच वापरून पाहता येते:",
    "The part of the training that is done, and the time until it ends at its present speed.": "प्रशिक्षणाचा झालेला भाग, आणि आत्ताच्या वेगाने ते संपायला लागणारा वेळ.",  # noqa: E501
    "The program looks at the text, measures this computer for a few seconds, and chooses the model that learns the most in this time.": "मजकूर पाहून आणि या संगणकाचा वेग काही सेकंद मोजून, दिलेल्या वेळेत सर्वांत जास्त शिकेल असे मॉडेल निवडले जाते.",  # noqa: E501
    "The report card cannot be read: report.json is damaged, it is not complete JSON.": "प्रगतिपुस्तक वाचता येत नाही: report.json खराब झाली आहे, ती पूर्ण JSON नाही.",  # noqa: E501
    "The report card cannot be read: report.json is much larger than a report card can be.": "प्रगतिपुस्तक वाचता येत नाही: report.json प्रगतिपुस्तकापेक्षा खूपच मोठी आहे.",  # noqa: E501
    "The report card cannot be read: report.json is not readable, or it is no file.": "प्रगतिपुस्तक वाचता येत नाही: report.json उघडता येत नाही, किंवा ती फाइल नाही.",  # noqa: E501
    "The report card is damaged: parts of report.json have a wrong form. The pages show the rest.": "प्रगतिपुस्तक खराब झाले आहे: report.json मधील काही भागांचे स्वरूप चुकीचे आहे. बाकीचे भाग दाखवले आहेत.",  # noqa: E501
    "The run has trained {count} steps. It continues from there, and everything after the training is done again.": "आतापर्यंत {count} पायऱ्यांचे प्रशिक्षण झाले आहे. ते तिथून पुढे सुरू होईल, आणि प्रशिक्षणानंतरचे सर्व टप्पे पुन्हा होतील.",  # noqa: E501
    "The run saves its state and stops.": "प्रशिक्षण आपली स्थिती जतन करून थांबत आहे.",
    "The same prompts are answered at every validation, always with the likeliest token.": "प्रत्येक चाचणीच्या वेळी त्याच प्रश्नांची उत्तरे दिली जातात, नेहमी सर्वाधिक शक्यतेचे टोकन निवडून.",  # noqa: E501
    "The same seed and the same prompts give the same answer.": "तेच सीड आणि तेच प्रश्न असल्यास तेच उत्तर मिळते.",
    "The text after cleaning, and the rules that dropped or changed the most: the number of texts, and of their characters.": "स्वच्छ केल्यानंतरचा मजकूर, आणि ज्यांनी सर्वांत जास्त वगळले किंवा बदलले ते नियम: किती मजकूर, आणि त्यातील किती अक्षरे.",  # noqa: E501
    "The text is small for this model: it is enough for about {enough} parameters. A smaller model learns as much.": "या मॉडेलसाठी मजकूर कमी आहे: तो साधारण {enough} पॅरामीटरांना पुरतो. लहान मॉडेलही तेवढेच शिकेल.",  # noqa: E501
    "The text would be read {times} times; more than {most} times teaches little.": "मजकूर {times} वेळा वाचला जाईल; {most} पेक्षा जास्त वेळा वाचल्याने फार काही शिकता येत नाही.",  # noqa: E501
    "The training ends after this step; then the best weights become the model.": "प्रशिक्षण या पायरीनंतर संपेल; मग सर्वोत्तम भारांपासून मॉडेल बनेल.",
    "The training has to end first.": "आधी प्रशिक्षण संपायला हवे.",
    "The upload failed: is there room on the disk?": "अपलोड झाले नाही: डिस्कवर जागा आहे का?",
    "The validation loss per byte of text; lower is better. It can be compared between models with different vocabularies.": "मजकुराच्या प्रत्येक बाइटमागे चाचणी लॉस; कमी असणे चांगले. वेगळा शब्दसंग्रह असलेल्या मॉडेलशीही याची तुलना करता येते.",  # noqa: E501
    "The validation loss when the weights are rounded to 4 bits.": "भार 4 बिटांमध्ये बदलल्यावरचा चाचणी लॉस.",
    "There is no conversation to save yet.": "जतन करण्यासाठी अजून संभाषण नाही.",
    "There is no finished run yet.": "अजून एकही प्रशिक्षण पूर्ण झालेले नाही.",
    "There is no model yet.": "अजून मॉडेल नाही.",
    "There is no model yet: start a run first.": "अजून मॉडेल नाही: आधी प्रशिक्षण सुरू करा.",
    "There is no report card yet: it is written at the end of the run.": "अजून प्रगतिपुस्तक नाही: ते प्रशिक्षणाच्या शेवटी लिहिले जाते.",
    "There is no such run": "असे प्रशिक्षण नाही",
    "They are moved to the folder {folder}.": "ती {folder} या फोल्डरमध्ये हलवली जातील.",
    "Thought. 1: says nothing about the question, 3: an ordinary answer, 5: an insight with a reason.": "विचार. 1: प्रश्नाबद्दल काहीच नाही, 3: सर्वसाधारण उत्तर, 5: कारणासह मांडलेला नवा विचार.",  # noqa: E501
    "Time for the run": "प्रशिक्षणासाठीचा वेळ",
    "Time left": "उरलेला वेळ",
    "Time of the training": "प्रशिक्षणाला लागणारा वेळ",
    "Time until the training ends at its present speed. The later stages take additional time.": "आत्ताच्या वेगाने प्रशिक्षण संपायला लागणारा वेळ; इतर टप्प्यांचा वेळ वेगळा.",  # noqa: E501
    "To write the report card again, run this command in the folder of the dashboard: {command}": "प्रगतिपुस्तक पुन्हा लिहिण्यासाठी डॅशबोर्डच्या फोल्डरमध्ये ही आज्ञा चालवा: {command}",  # noqa: E501
    "Tokenizer": "टोकनायझर",
    "Tokens": "टोकन",
    "Tokens are the pieces in which the model reads text. With fewer tokens per word it sees more text at once.": "मॉडेल मजकूर ज्या तुकड्यांमध्ये वाचते ते म्हणजे टोकन. एका शब्दाला कमी टोकन लागली तर मॉडेल एका वेळी जास्त मजकूर पाहते.",  # noqa: E501
    "Tokens of text that the training read in a second, at its last step.": "शेवटच्या पायरीवर प्रशिक्षणाने एका सेकंदात वाचलेली टोकन.",
    "Tokens of text that the training reads in a second, median of the last steps.": "प्रशिक्षण एका सेकंदात वाचत असलेली टोकन, शेवटच्या पायऱ्यांचा मध्यक.",  # noqa: E501
    "Top k": "Top k",
    "Top p": "Top p",
    "Total steps": "एकूण पायऱ्या",
    "Train longer": "आणखी प्रशिक्षण द्या",
    "Training": "प्रशिक्षण",
    "Training loss (nats/token)": "प्रशिक्षण लॉस (नॅट/टोकन)",
    "Training speed": "प्रशिक्षणाचा वेग",
    "Training speed (tokens/s)": "प्रशिक्षणाचा वेग (टोकन/से.)",
    "Training text": "प्रशिक्षणाचा मजकूर",
    "Training the 4-bit weights": "4-बिट भारांचे प्रशिक्षण",
    "Upload files: choose or drop them here": "फाइली अपलोड करा: निवडा किंवा येथे टाका",
    "Validation": "चाचणी",
    "Validation loss (nats/token)": "चाचणी लॉस (नॅट/टोकन)",
    "Validation loss with 4-bit weights (nats/token)": "4-बिट भारांचा चाचणी लॉस (नॅट/टोकन)",
    "Validation text": "चाचणीचा मजकूर",
    "Validation, 4-bit weights": "चाचणी, 4-बिट भार",
    "Validation, averaged weights": "चाचणी, सरासरी भार",
    "Values above 1 make recent tokens less likely.": "1 पेक्षा जास्त मूल्य असल्यास अलीकडची टोकन पुन्हा येण्याची शक्यता कमी होते.",
    "Verdict": "निष्कर्ष",
    "Web page that runs the model (.html)": "मॉडेल चालवणारे वेब पान (.html)",
    "Weight of the earlier points of a curve, from 0 to 0.98. A high weight shows the trend of training loss, gradient norm and speed.": "वक्रातील आधीच्या बिंदूंना किती महत्त्व द्यायचे, 0 ते 0.98. जास्त महत्त्व दिल्यास प्रशिक्षण लॉस, ग्रेडियंट आणि वेग यांचा कल दिसतो.",  # noqa: E501
    "Weights": "भार",
    "What cleaning would drop or change, with examples": "स्वच्छ करताना काय वगळले किंवा बदलले जाईल, उदाहरणांसह",
    "What do these numbers mean?": "या आकड्यांचा अर्थ काय?",
    "What is this?": "हे काय आहे?",
    "What it answers while it learns": "शिकत असताना दिलेली उत्तरे",
    "What the model predicts and answers is measured. Green figures keep the limits of the settings (report.limits), orange ones are too close to a limit to be sure, and red ones exceed it.": "मॉडेलचे अंदाज आणि उत्तरे मोजली जातात. हिरवे आकडे सेटिंग्जमधील मर्यादेत (report.limits) आहेत, केशरी मर्यादेच्या इतके जवळ आहेत की तो योगायोग असू शकतो, आणि लाल मर्यादेबाहेर आहेत.",  # noqa: E501
    "What the report card says about the model, and what limits it.": "प्रगतिपुस्तक मॉडेलबद्दल काय सांगते, आणि मॉडेलच्या मर्यादा काय आहेत.",
    "When a file of the run changed last, in the time of this computer.": "प्रशिक्षणाची एखादी फाइल शेवटची कधी बदलली, या संगणकाच्या घड्याळानुसार.",
    "Where the figure would be for other text of the same kind, with 95 % probability: the difference of the models for loss (nats/token) and perplexity (percent), the 4-bit figure itself for the other rows.": "त्याच प्रकारच्या दुसऱ्या मजकुरावर हा आकडा 95 % शक्यतेने कुठे असेल: लॉस (नॅट/टोकन) आणि परप्लेक्सिटी (टक्के) यांसाठी दोन मॉडेल्समधील फरक, इतर ओळींसाठी 4-बिट मॉडेलचा आकडा.",  # noqa: E501
    "Which answer is better?": "कोणते उत्तर चांगले आहे?",
    "Writing the FP32 model": "FP32 मॉडेल लिहीत आहे",
    "Writing the report card": "प्रगतिपुस्तक लिहीत आहे",
    "Your message": "तुमचा संदेश",
    "Your name": "तुमचे नाव",
    "and {count} more": "आणि आणखी {count}",
    "at most {high}": "{high} पर्यंत",
    "between {low} and {high}": "{low} आणि {high} च्या दरम्यान",
    "bits/byte": "बिट/बाइट",
    "changed": "बदलले",
    "characters": "अक्षरे",
    "cores": "कोअर",
    "damaged report card": "प्रगतिपुस्तक खराब",
    "default": "मूळ मूल्य",
    "difference": "फरक",
    "do not ship": "वापरू नका",
    "dropped": "वगळले",
    "failed": "अयशस्वी",
    "finished": "पूर्ण",
    "from {low} to less than {high}": "{low} पासून {high} पेक्षा कमी",
    "from {low} to {high}": "{low} ते {high}",
    "it describes this model of {parameters} parameters": "तिच्यात {parameters} पॅरामीटरांच्या याच मॉडेलचे वर्णन आहे",
    "it was read again": "फाइल पुन्हा वाचून तपासली",
    "it was read again and all numbers are valid": "फाइल पुन्हा वाचली आणि सर्व संख्या बरोबर आहेत",
    "layer": "थर",
    "less than {high}": "{high} पेक्षा कमी",
    "llama.cpp and Ollama (GGUF and Modelfile, .zip)": "llama.cpp आणि Ollama (GGUF आणि Modelfile, .zip)",
    "minutes of training": "प्रशिक्षणाची मिनिटे",
    "more settings": "आणखी सेटिंग्ज",
    "more than {low}": "{low} पेक्षा जास्त",
    "more than {low}, at most {high}": "{low} पेक्षा जास्त, {high} पर्यंत",
    "nats/token": "नॅट/टोकन",
    "one day": "एक दिवस",
    "one night (8 hours)": "एक रात्र (8 तास)",
    "preferred": "पसंती",
    "running": "चालू",
    "safe to ship": "वापरायला सुरक्षित",
    "ship with a limit": "मर्यादेसह वापरा",
    "step": "पायरी",
    "step {step}": "पायरी {step}",
    "step {step} of {total}": "पायरी {step} / {total}",
    "stopped": "थांबले",
    "the archive was read again": "संग्रह (archive) पुन्हा वाचून तपासला",
    "the checksum, the structure and all numbers are valid": "checksum, रचना आणि सर्व संख्या बरोबर आहेत",
    "the page holds this model": "पानात हेच मॉडेल आहे",
    "tokens": "टोकन",
    "tokens/s": "टोकन/से.",
    "training tokens": "प्रशिक्षणाची टोकन",
    "usefulness": "उपयुक्तता",
    "waiting": "रांगेत",
    "{characters} characters, {documents} documents, {conversations} conversations": "{characters} अक्षरे, {documents} दस्तऐवज, {conversations} संभाषणे",  # noqa: E501
    "{count} generated tokens are the same as those of the original": "तयार केलेली {count} टोकन मूळ मॉडेलसारखीच आहेत",
    "{count} tokens": "{count} टोकन",
    "{count} tokens, {speed} tokens/s": "{count} टोकन, {speed} टोकन/से.",
    "{done} of {total} scored": "{total} पैकी {done} ला गुण दिले",
    "{equal} of {count} generated tokens are the same as with the FP32 weights; rounding changes some": "तयार केलेल्या {count} पैकी {equal} टोकन FP32 भारांसारखीच आहेत; 4 बिटांमुळे काही बदलतात",  # noqa: E501
    "{low} or more": "{low} किंवा जास्त",
    "{time} left": "{time} बाकी",
    "{words} tokens per word, {characters} characters per token": "प्रति शब्द {words} टोकन, प्रति टोकन {characters} अक्षरे",
}


@dataclass(frozen=True)
class Words:
    """Texts in one language: `words("Runs")` gives the text, with {placeholders} filled in."""

    language: str

    def __call__(self, english: str, **values: object) -> str:
        text = MARATHI.get(english, english) if self.language == "mr" else english
        return text.format(**values) if values else text
